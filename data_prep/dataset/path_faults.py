"""Which errors of the system are faults of a path that the user gave; apart from others, as `elmo -h` needs it."""

import errno

PATH_FAULTS = {
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTEMPTY,
    errno.ENAMETOOLONG, errno.ELOOP, errno.ENXIO, errno.ENODEV,
}  # fmt: skip
"""A failing disk or network is none of them: Slurm starts such a job again."""
