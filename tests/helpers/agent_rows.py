"""Rows of every format of modelscope-agent-train and of the kernel, after the published forms.

Whatever a tool or an environment answers holds the word OBSERVED, and whatever a person says holds
the word ASKED, so that a test can look for them among what is trained.
"""

# ruff: noqa: RUF001 - the punctuation of Chinese text is the data's

import json

WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string", "description": "which city"}},
    "required": ["city"],
}


def think(call):
    return f"<|startofthink|>```JSON\n{json.dumps(call)}\n```<|endofthink|>"


def executed(result="OBSERVED 9"):
    return f"<|startofexec|>```JSON\n{result}\n```<|endofexec|>"


PLUGIN = {
    "plugin_name": "weather",
    "plugin_owner": "ModelScopeGPT",
    "plugin_type": "default",
    "plugin_schema_for_model": {
        "name": "weather",
        "description": "tells it",
        "url": "http://1.2.3.4:80/",
        "paths": [
            {
                "name": "weather",
                "model_id": "/damo/x",
                "method": "post",
                "description": "tells the weather",
                "parameters": [{"name": "city", "description": "which", "required": "True"}],
            }
        ],
    },
}
FLAT = {
    "name": "song",
    "description": "plays one",
    "parameters": [{"name": "title", "description": "its title", "required": "False"}],
}
MSAGENT_SYSTEM = f"You are ModelScopeGPT. Call:\n1. {json.dumps(PLUGIN)}\n\n2. {json.dumps(FLAT)}"
MSAGENT = {
    "id": "MS_Agent_Bench_20",
    "conversations": [
        {"from": "system", "value": MSAGENT_SYSTEM},
        {"from": "user", "value": "ASKED: Rome?"},
        {
            "from": "assistant",
            "value": "I look.\n"
            + think({"api_name": "weather", "url": "http://x", "parameters": {"city": "Rome"}})
            + "\n\n"
            + executed()
            + "\n"
            + think({"name": "song", "parameters": {"title": "Sun"}})
            + executed("OBSERVED song")
            + "\nIt is warm.",
        },
    ],
}
REFUSAL = {
    "conversations": [
        {"from": "system", "value": MSAGENT_SYSTEM},
        {"from": "user", "value": "ASKED: who are you?"},
        {"from": "assistant", "value": "An assistant."},
    ]
}

REACT_SYSTEM = (
    "Answer the following questions as best you can. You have access to the following APIs:\n"
    "1. get_w: Call this tool to interact with the getw API. What is the getw API useful for? "
    'weather. Parameters: [{"name": "city", "description": "c", "required": "True"}]\n'
    "2. get_t: Call this tool to interact with the gett API. What is the gett API useful for? "
    "the time. Parameters: []\n\n"
    "Use the following format:\n\nThought: you should always think about what to do\n"
    "Action: the action to take, should be one of the above tools[get_w, get_t]\n"
    "Action Input: the input to the action\nObservation: the result of the action\n"
    "... (this Thought/Action/Action Input/Observation can be repeated zero or more times)\n"
    "Thought: I now know the final answer\n"
    "Final Answer: the final answer to the original input question\nBegin!"
)
MS_AGENT = {
    "id": "MS_Agent_Bench_1",
    "conversations": [
        {"from": "system", "value": REACT_SYSTEM},
        {"from": "user", "value": "ASKED: weather and time?"},
        {
            "from": "assistant",
            "value": "Thought: two things\nAction: get_w\n"
            "Action Input: {'city': \"Rome's\", 'n': None}\n"
            "Observation: [{'OBSERVED': 9}]\nAction: get_t\nAction Input: {}\n"
            "Observation: OBSERVED noon\nThought: I now know the final answer\n"
            "Final Answer: 9 C\nat noon",
        },
    ],
}

FABRIC_SYSTEM = (
    "\n# 工具\n\n## 你拥有如下工具：\n\n"
    f"amap_weather: amap_weather API。获取天气 输入参数: {json.dumps(WEATHER)} "
    "Format the arguments as a JSON object.\n\n"
    'image_gen: 画图 API。画一张图 输入参数: {"type": "object", "properties": {"\\prompt": '
    '{"type": "string", "description": "d"}},"required": []} Format the arguments as a JSON object.'
    "\n\n## 当你需要调用工具时，请在你的回复中穿插如下的工具调用命令，"
    "可以根据需求调用零次或多次：\n\n"
    "工具调用\nAction: 工具的名称，必须是[amap_weather]之一\nAction Input: 工具的输入\n"
    "Observation: <result>工具返回的结果</result>\n"
    "Answer: 根据Observation总结本次工具调用返回的结果\n\n"
    "# 指令\n\n你扮演一个天气预报助手。\n"
)
AGENTFABRIC = {
    "conversations": [
        {"from": "system", "value": FABRIC_SYSTEM},
        {"from": "user", "value": "(。你可以使用工具：[amap_weather])ASKED 朝阳区天气怎样？"},
        {
            "from": "assistant",
            "value": '好的。\nAction: amap_weather\nAction Input: {"city": "朝阳区"}\n'
            "Observation: <result>OBSERVED\nAnswer: not the model's\nThought: nor this</result>\n"
            "Answer: 朝阳区晴。",
        },
    ]
}
FABRIC_ENGLISH = {
    "conversations": [
        {
            "from": "system",
            "value": "# Tools\n\n## You have the following tools:\n\n"
            f"weather: weather API. Tells it. Parameters: {json.dumps(WEATHER)} "
            "Format the arguments as a JSON object.\n\n"
            "## When you need to call a tool, please intersperse the following tool command in "
            "your reply.\n\nTool Invocation\nAction: The name of the tool\nAction Input: Tool "
            "input\nObservation: <result>Tool returns result</result>\nAnswer: Summarize\n\n"
            "#Instructions\n\nBe kind.",
        },
        {"from": "user", "value": "ASKED"},
        {"from": "assistant", "value": 'Action: weather\nAction Input: {"city": "Rome"}'},
        {"from": "user", "value": "Observation: <result>OBSERVED sun</result>"},
        {"from": "assistant", "value": "Answer: Sunny."},
    ]
}

APIS = [
    {
        "name": "quiz_for_moodring",
        "description": 'the "quiz" of it',
        "parameters": {
            "type": "object",
            "properties": {"quizid": {"type": "string", "description": "", "example_value": "1"}},
            "required": ["quizid"],
            "optional": [],
        },
    },
    {"name": "Finish", "description": "ends", "parameters": {"type": "object", "properties": {}}},
]
TOOLLLAMA_SYSTEM = (
    "You are AutoGPT, you can use many tools(functions) to do the following task.\n"
    "At each step, you need to give your thought. Your output should follow this format:\n"
    "Thought:\nAction\nAction Input:\n\nAfter the call, you will get the call result.\n"
    "Remember: \n1.the state change is irreversible.\nLet's Begin!\n"
    "Task description: You should use functions to help handle the real time user querys. "
    'Remember:\n1.ALWAYS call "Finish" function at the end of the task. If you can\'t handle the '
    "task, use function Finish->give_up_and_restart.\n"
    "2.Do not use origin tool names, use only subfunctions' names.\n"
    "You have access of the following tools:\n1.moodring: Get the mood\n\n"
    f"Specifically, you have access to the following APIs: {APIS!r}"
)
STEP = {"from": "assistant", "value": "\nThought: t\nAction: quiz_for_moodring\nAction Input: {}"}
TOOLLLAMA = {
    "id": "Step 4: the query",
    "conversations": [
        {"from": "system", "value": TOOLLLAMA_SYSTEM},
        {"from": "user", "value": "\nASKED the query\nBegin!\n"},
        STEP,
        {"from": "function", "value": '{"error": "", "response": "OBSERVED"}'},
        {
            "from": "assistant",
            "value": "\nThought: \nAction: Finish\nAction Input: "
            '{"return_type":"give_answer","final_answer":"All is well."}',
        },
    ],
}
SWIFT_TOOLBENCH = {
    "tools": json.dumps([{"type": "function", "function": api} for api in APIS]),
    "conversations": [
        {"from": "system", "value": "You can use many tools."},
        {"from": "user", "value": "ASKED"},
        STEP,
        {"from": "tool", "value": "OBSERVED 1"},
        {
            "from": "assistant",
            "value": 'Thought: again\nAction: quiz_for_moodring\nAction Input: {"quizid": "2"}',
        },
    ],
}

AGENTINSTRUCT = {
    "id": "db_0",
    "conversations": [
        {"from": "human", "loss": None, "value": "ASKED instructions"},
        {"from": "gpt", "loss": False, "value": "Ok."},
        {"from": "human", "loss": None, "value": "ASKED question"},
        {"from": "gpt", "loss": True, "value": "Action: Operation\n```sql\nSELECT 1;\n```"},
        {"from": "human", "loss": None, "value": "[('OBSERVED',)]"},
        {"from": "gpt", "loss": True, "value": 'Action: Answer\nFinal Answer: ["1"]'},
    ],
}

FLAN = {
    "id": "toolbench_tflan_1",
    "conversation": [
        {"role": "system", "content": "ASKED: answer about tools", "loss": False},
        {"role": "user", "content": "ASKED What is the tool you want to use", "loss": False},
        {"role": "assistant", "content": "Tool: f", "loss": True},
        {"role": "user", "content": "ASKED for parameters", "loss": False},
        {"role": "assistant", "content": "Yes.", "loss": False},
    ],
}
FLAN_TOOLS = [
    {
        "name": "ArxivSearch",
        "description": "searches",
        "parameters": [{"name": "query", "type": "STRING", "description": "words"}],
        "required": ["query"],
    }
]
FLAN_REACT = {
    "id": "toolbench_react_1",
    "conversation": [
        {
            "role": "system",
            "content": f"You are a assistant who can utilize external tools.\n{FLAN_TOOLS!r}\n"
            "To use a tool, please use the following format:\n```\nThought:Think\nAction:the tool "
            "name\nAction Input:the input\n```\nThe response after utilizing tools should using "
            "the following format:\n```\nResponse:the results after call the tool.\n```\nBegin!",
            "loss": False,
        },
        {"role": "user", "content": "ASKED for a report", "loss": False},
        {
            "role": "assistant",
            "content": "Thought: I search\nAction: ArxivSearch\n"
            "Action Input: {'query': 'InternLM2'}",
            "loss": True,
        },
        {"role": "user", "content": "Response: OBSERVED papers", "loss": False},
        {
            "role": "assistant",
            "content": "Thought: that is it\nFinal Answer: Found.",
            "loss": True,
        },
    ],
}

XLAM = {
    "id": 7,
    "query": "ASKED: live giveaways and the weather?",
    "answers": json.dumps(
        [
            {"name": "giveaways", "arguments": {"type": "beta", "ids": [1, 2]}},
            {"name": "weather", "arguments": {"city": "Rome"}},
        ]
    ),
    "tools": json.dumps(
        [
            {
                "name": "giveaways",
                "description": "lists them",
                "parameters": {
                    "type": {"description": "which", "type": "str, optional", "default": "game"},
                    "ids": {"description": "of them", "type": "List[int]"},
                    "after": {"description": "when", "type": "Union[int, str]", "default": ""},
                },
            },
            {"name": "weather", "description": "tells it", "parameters": WEATHER},
        ]
    ),
}

UMI_TOOL = {
    "Name": "quiz_for_moodring",
    "function": 'the "quiz"',
    "input": {"quizid": "string, its number", "way": "DATE (YYYY-MM-DD), when"},
}
UMI_RAW = {
    "tools": [UMI_TOOL],
    "instruction": "fetch the quiz",
    "chains": [
        {"role": "system", "content": TOOLLLAMA_SYSTEM.partition("Specifically")[0]},
        {"role": "user", "content": "\nASKED: fetch the quiz\nBegin!\n"},
        {"role": "user", "content": "ASKED: This is not the first time you try", "valid": False},
        {
            "role": "assistant",
            "content": "I fetch it.",
            "function_call": {"name": "quiz_for_moodring", "arguments": '{\n  "quizid": "2"\n}'},
        },
        {"role": "function", "name": "quiz_for_moodring", "content": "OBSERVED"},
        {
            "role": "assistant",
            "content": None,
            "function_call": {
                "name": "Finish",
                "arguments": '{"return_type": "give_answer", "final_answer": "Here it is."}',
            },
        },
    ],
}
UMI_BACKBONE_PROMPT = (
    f"You have assess to the following apis:\n{json.dumps(UMI_TOOL)}\n\n"
    "The conversation history is:\nuser: ASKED</s>assistant: I fetch.</s>observation: OBSERVED\n"
    "You should answer the action of next step in the following format:\n"
    "The thought to solve the question,\n"
    "Action: the name of api that should be called in this step, should be exactly in "
    "[quiz_for_moodring],\nAction Input: the api call request.\n"
    "Once you think the question is finished, output conclusion: the final answer of the "
    "question or give up if you think you cannot answer this question.\n assistant: "
)
UMI_CALLER_PROMPT = (
    f"You have assess to the following apis:\n{json.dumps(UMI_TOOL)}\n\n"
    "The conversation history is:\nuser: ASKED</s>observation: OBSERVED\n"
    "The thought of this step is:\nI fetch.\n Next: caller.\n"
    "Base on the thought make an api call in the following format:\n"
    "Action: the name of api that should be called in this step, should be exactly in "
    "[quiz_for_moodring],\nAction Input: the api call request. caller: "
)
UMI_CALL = 'Action: quiz_for_moodring\nAction Input: {\n  "quizid": "2"\n}'
UMI_BACKBONE = {
    "tools": [UMI_TOOL],
    "history": [{"from": "user", "value": "ASKED"}],
    "input": UMI_BACKBONE_PROMPT,
    "target": f"I fetch another.\n{UMI_CALL}",
}
UMI_PLANNER = {
    "tools": [UMI_TOOL],
    "history": [{"from": "user", "value": "ASKED"}],
    "input": f"You have assess to the following apis:\n{json.dumps(UMI_TOOL)}\n\n"
    "The conversation history is:\nuser: ASKED</s>observation: OBSERVED\n"
    "You are the assistant to plan what to do next and whether is caller's or conclusion's turn "
    "to answer.\nAnswer with a following format:\nThe thought of the next step, followed by "
    "Next: caller or conclusion or give up. assistant: ",
    "target": "I should fetch it.\n Next: caller.",
}
UMI_SUMMARIZER = {
    "tools": [UMI_TOOL],
    "history": [{"from": "user", "value": "ASKED"}],
    "input": "Make a conclusion based on the conversation history:\nuser: ASKED</s>observation: "
    "OBSERVED conclusion: ",
    "target": "There are two.",
}
UMI_HUB_CALLER = {
    "conversations": [
        {"from": "user", "value": UMI_CALLER_PROMPT},
        {"from": "caller", "value": UMI_CALL},
    ]
}
UMI_HUB_CONCLUSION = {
    "conversations": [
        {"from": "user", "value": UMI_SUMMARIZER["input"]},
        {"from": "conclusion", "value": "There are two."},
    ]
}

ROWS = {
    "msagent": [MSAGENT, REFUSAL],
    "ms_agent": [MS_AGENT],
    "agentfabric": [AGENTFABRIC, FABRIC_ENGLISH],
    "toolbench": [TOOLLLAMA, SWIFT_TOOLBENCH],
    "agentinstruct": [AGENTINSTRUCT],
    "agent_flan": [FLAN, FLAN_REACT],
    "xlam": [XLAM],
    "alpha_umi": [
        UMI_RAW,
        UMI_BACKBONE,
        UMI_PLANNER,
        UMI_SUMMARIZER,
        UMI_HUB_CALLER,
        UMI_HUB_CONCLUSION,
    ],
}
"""Rows of each format, by its name: at least one of every form it has."""

SAID = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
CALL = {"name": "weather", "arguments": {"city": "Rome"}}
KERNEL_ROWS = {
    "bfcl": [{"id": "simple_0", "question": [SAID[:1]], "function": [FLAT]}],
    "messages": [
        {"messages": SAID},
        {
            "messages": [
                {"role": "user", "content": "q"},
                {"role": "assistant", "content": "a", "loss": False},
                {"role": "user", "content": "q"},
                {"role": "assistant", "tool_calls": [{"function": CALL}]},
                {"role": "tool", "content": "r"},
                {"role": "assistant", "content": "Thought: t\nFinal Answer: 9"},
            ],
            "tools": [{"name": "weather", "parameters": WEATHER}],
        },
        {"conversation": SAID},
        {"conversations": SAID},
    ],
    "sharegpt": [
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
        {
            "conversations": [
                {"from": "human", "value": "q"},
                {"from": "gpt", "value": "no", "loss": False},
                {"from": "human", "value": "q"},
                {"from": "gpt", "value": "a"},
            ]
        },
        {
            "tools": json.dumps([{"name": "weather", "parameters": WEATHER}]),
            "conversations": [
                {"from": "user", "value": "q"},
                {"from": "tool_call", "value": json.dumps(CALL)},
                {"from": "tool_response", "value": "r"},
                {"from": "assistant", "value": "Action: none was needed"},
            ],
        },
        {
            "conversations": [
                {"from": "system", "value": "You have access to the following files: a, b"},
                {"from": "user", "value": "What is <|startofthink|> in MSAgent-Bench?"},
                {"from": "assistant", "value": "A tag."},
            ]
        },
    ],
    "lima": [{"conversations": ["q", "a"]}],
    "dolly": [{"instruction": "q", "context": "", "response": "a", "category": "open_qa"}],
    "alpaca": [
        {"instruction": "q", "input": "i", "output": "a"},
        {"instruction": "q", "input": "i", "output": "a", "history": [], "tools": []},
    ],
    "prompt_completion": [{"prompt": "q", "completion": "a"}],
}
"""Rows of the kernel's formats, by name."""
