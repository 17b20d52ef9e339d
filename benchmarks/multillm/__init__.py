"""A planner, a caller and a summarizer on the Berkeley Function Calling Leaderboard."""
