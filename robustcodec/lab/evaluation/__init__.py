"""Evaluation of codecs, clean and attacked, on a folder of pictures: rows, tables, plots, checks and a page."""
