"""What `rewrap top` shows: gathered from records, judged, and laid out for JSON and the screen."""
