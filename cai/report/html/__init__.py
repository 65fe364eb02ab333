"""The pieces of a page as HTML: sections with tables, charts as SVG, and text with its hidden characters shown."""
