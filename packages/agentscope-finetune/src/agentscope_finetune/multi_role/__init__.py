"""A multi-agent of AgentScope: planner, caller and summarizer, three adapters on one model.

The idea is that of "Small LLMs Are Weak Tool Learners: A Multi-LLM Agent" (arXiv 2401.07324). What
each role is shown and how its words are read is `agent_finetune.roles.prompts`, and nothing else,
so that what is served is what was trained.
"""

from __future__ import annotations

from agentscope_finetune.multi_role.agent import MultiRoleAgent
from agentscope_finetune.multi_role.folders import open_roles
from agentscope_finetune.multi_role.speakers import spoken, voices

__all__ = ["MultiRoleAgent", "open_roles", "spoken", "voices"]
