"""The rooms of `fuzz_kernels.py`: random operations, and in plain NumPy what each of them must give."""
