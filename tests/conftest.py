"""One thread for torch in every test and in the processes they start.

The networks here are tiny, and two threads that wait for each other at every small operation are up to a hundred times
slower than one as soon as something else runs on the machine.
"""

import os

import hypothesis

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported

# Where a change is judged, the same examples every time; at home, new ones.
hypothesis.settings.register_profile("judged", derandomize=True)
if os.environ.get("CI"):
    hypothesis.settings.load_profile("judged")
