"""upshift: native parts for Python systems that have to scale, under the names they already import."""
