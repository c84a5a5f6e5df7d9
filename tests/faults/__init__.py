"""Fault campaigns: real training processes that are killed, stopped, damaged and starved of disk until they are done.

    python -m tests.faults --kills 100 --damages 100 --full-disks 20

Nothing may be lost: a run that went through all that ends bitwise equal to a twin that nobody touched.
"""
