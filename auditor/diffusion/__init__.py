"""What is done to noise: schedules and the one convention of networks inside, sampling, denoising, exact references."""
