"""HTTP/2 and gRPC without I/O, as far as builds need them: frames are copied, few are read, fewer are written anew."""
