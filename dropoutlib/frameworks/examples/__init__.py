"""One model in three libraries: what the chapter "frameworks" shows in its tabs and trains."""
