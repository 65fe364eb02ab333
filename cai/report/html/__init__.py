"""The page as HTML: sections with tables, charts as SVG, rows, and hidden characters shown."""
