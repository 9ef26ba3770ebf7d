"""What travels between hospitals and the coordinator: plain messages, generated code, streams, failures, the client.

``messages`` is plain values without gRPC, so that rooms which only read headers or states need no network package.
"""
