"""Lists beside For You: timelines, and videos that are alike."""
