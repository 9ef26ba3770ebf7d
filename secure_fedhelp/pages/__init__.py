"""Parts of a page for a browser or a printer: charts, figures in words, the style. Nothing in it is loaded."""
