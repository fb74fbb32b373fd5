"""The compiler's cycles of a program by kind of operation and by source line (profile.py)."""
