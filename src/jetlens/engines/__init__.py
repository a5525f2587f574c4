"""TensorRT plans: built in a child process, kept in a cache with a signed manifest beside each, never loaded untrusted."""
