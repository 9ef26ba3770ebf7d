"""Federated learning between hospitals that trust neither the network, nor the server, nor each other."""

__version__ = "0.4.0"
