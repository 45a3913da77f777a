"""An object that does harm when it is unpickled."""

import os


class Hostile:
    """Unpickling it makes a folder where the process works."""

    def __reduce__(self):
        return (os.mkdir, ("executed",))
