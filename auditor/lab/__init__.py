"""A world whose truth is known: the random hierarchical grammar, its exact denoiser, and models trained on it.

Sequences are letters ``[n, length]``; one-hot they are float ``[n, length, q]``, and as the
images of an audit uint8 ``[n, length, q, 1]`` with 255 at the letter. A *denoiser* maps noisy
one-hots and their times to the probability of every letter at every position.
"""
