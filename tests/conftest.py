"""One thread for torch in every test and in the processes they start.

The networks here are tiny, and two threads that wait for each other at every small operation are up to a hundred times
slower than one as soon as something else runs on the machine.
"""

import os

import hypothesis

os.environ["OMP_NUM_THREADS"] = "1"  # read when torch is imported

# Where a change is judged, the same examples every time; at home, new ones. None has a deadline: a machine with other
# work to do would fail.
hypothesis.settings.register_profile("home", deadline=None)
hypothesis.settings.register_profile("judged", deadline=None, derandomize=True)
hypothesis.settings.load_profile("judged" if os.environ.get("CI") else "home")
