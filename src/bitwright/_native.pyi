"""Types of the native extension. See native/bindings.cc for what each function checks."""

