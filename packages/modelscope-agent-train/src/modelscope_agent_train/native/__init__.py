"""The trainer `agent-sft`: ModelScope's configuration, data and hooks around the kernel's loop.

`host_config` finds the configuration, `translation` makes settings of the kernel of it (with
`stock_hooks` and `drafts`), `models` and `data` read what is trained, `trainer` puts it together,
and `hook_runner` calls ModelScope's hooks in the run.
"""
