"""Made by ``python -m secure_fedhelp.wire.generate``; do not edit."""
