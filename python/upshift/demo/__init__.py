"""`upshift demo`: a small application of the usual kind, run unchanged on the native cache and pool over real files."""
