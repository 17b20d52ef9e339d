"""Parts of the benchmark `agentscope_tools`."""
