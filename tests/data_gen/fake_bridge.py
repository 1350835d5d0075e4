"""A bridge without Ray: it speaks its protocol, places workers in turn, and answers their jobs itself.

Called with a folder: ``nodes.json`` there are the nodes of the cluster; without it there is none. Every command is
noted in ``said``. A message with ``raw`` has it write that, one with ``end`` has it end with these last words.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from fake_worker import BEHAVIOURS, result


def say(text):
    sys.stdout.write(text)
    sys.stdout.flush()


def answer(**content):
    say(json.dumps(content) + "\n")


def main():
    folder = Path(sys.argv[1])
    jobs = 0
    for line in sys.stdin:
        with (folder / "said").open("a") as file:
            file.write(line)
        command = json.loads(line)
        message = command.get("message", {})
        if "address" in command:
            if not (folder / "nodes.json").exists():
                answer(failure="nobody is there")
                return
            nodes = json.loads((folder / "nodes.json").read_text())
            answer(nodes=nodes)
        elif "start" in command:
            usable = [
                node for node in nodes if node["alive"] and not node["why"] and node["id"] not in command["avoid"]
            ]
            number, name = command["start"], usable[command["start"] % len(usable)]["name"]
            answer(placed=number, node=name, device=command["first"]["device"], pid=number)
            answer(line=number, text='{"ready": true}')
        elif "raw" in message:
            say(message["raw"])
        elif "end" in message:
            sys.exit(message["end"])
        elif "job" in message:
            jobs += 1
            if BEHAVIOURS.get(message["seed"]) == "killed" and jobs > 2:
                sys.exit("the head is gone")
            made = {"job": message["job"], "result": result(message["choices"], message["seed"])}
            answer(line=command["send"], text=json.dumps(made))


if __name__ == "__main__":
    main()
