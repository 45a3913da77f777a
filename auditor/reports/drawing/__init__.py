"""How charts, maps and pictures are drawn: bokeh for a page, matplotlib for a paper, Pillow for a contact sheet."""
