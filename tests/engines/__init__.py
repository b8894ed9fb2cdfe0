"""Whether what is promised holds on all engines: every way to create, on each, and the page that shows it."""
