"""Containers that cannot start, do not come up, or cannot be meant."""

from __future__ import annotations

from typing import Final

from tests.mistakes.case import case, starts

ODD: Final = 'f"{FAULTS}/odd:1"'

COMMANDS: Final = (
    case(
        "the command is in no folder of PATH", starts('"host", command="no-such"'), "CommandNotFound", "PATH"
    ),
    case(
        "the command's path leads nowhere",
        starts('"host", command="/no/such"'),
        "CommandNotFound",
        "no such file",
    ),
    case(
        "the command's file has no execute permission",
        starts(f'{ODD}, command="plain"'),
        "CommandNotExecutable",
        "-rw-r--r--",
    ),
    case("the command is a folder", starts('"host", command="/etc"'), "CommandNotExecutable", "folder"),
    case(
        "the script does not begin with `#!`",
        starts(f'{ODD}, command="headless"'),
        "CommandNotExecutable",
        "#!",
    ),
    case(
        "the script's interpreter is not in the image",
        starts(f'{ODD}, command="script"'),
        "InterpreterMissing",
        "/usr/bin/no-such-language",
    ),
    case(
        "the program's loader is not in the image",
        starts(f'{ODD}, command="old"'),
        "InterpreterMissing",
        "/lib/ld-of-another-time.so.1",
    ),
    case(
        "the program was built for another processor",
        starts(f'{ODD}, command="foreign"'),
        "CommandNotExecutable",
        "another processor",
    ),
    case("neither image nor test names a command", starts(ODD), "SpecInvalid", "no command"),
    case(
        "the image does not know the user",
        starts('"host", command="true", user="app"'),
        "StartError",
        "'app'",
        "/etc/passwd",
    ),
    case(
        "the image does not know the group",
        starts('"host", command="true", user="root:app"'),
        "StartError",
        "'app'",
        "/etc/group",
    ),
    case(
        "`workdir=` is a file", starts('"host", command="true", workdir="/etc/passwd"'), "StartError", "file"
    ),
    case(
        "`files=` would replace a folder",
        starts('"host", command="true", files={"/etc": ""}'),
        "StartError",
        "files=",
    ),
    case(
        "a mount lies over the kernel's files",
        starts('"host", command="true", tmpfs=["/proc"]'),
        "StartError",
        "/proc",
        "privileged=True",
    ),
    case(
        "the arguments are longer than the kernel takes",
        starts('"host", command=["echo", "x" * 200_000]'),
        "CommandNotExecutable",
        "too long",
    ),
    case(
        "`exec(check=True)` of a command that is not there",
        'container("host", command="sleep 60").exec("no-such", check=True)',
        "ExecFailed",
        "127",
        "no-such",
    ),
    case(
        "`exec` in a container that has ended",
        """
        box = container("host", command="false")
        box.wait()
        box.exec("true")
        """,
        "NotRunning",
        "code 1",
    ),
)

LOOPBACK: Final = """
        import sys
        SERVER = '''if True:
            import signal, socket
            inside = socket.create_server(("127.0.0.1", 80))
            other = socket.create_server(("", 81))
            print("serving", flush=True)
            signal.pause()
        '''
        box = container("host", command=["python3", "-c", SERVER], ready=log("serving"))
        box.wait_for(port(80), timeout=0.1)
        """

SERVICES: Final = (
    case(
        "the port is never opened",
        starts('"host", command=["sh", "-c", "echo starting; sleep 60"], ports=[6379], timeout=0.2'),
        "NotReady",
        "within 0.2 s",
        "6379/tcp",
        "nothing bound",
        "stdout | starting",
    ),
    case(
        "the port is open on loopback alone", LOOPBACK, "NotReady", "80/tcp is bound to 127.0.0.1", "0.0.0.0"
    ),
    case(
        "the log never says so",
        starts('"host", command=["sh", "-c", "echo starting; sleep 60"], ready=log("ready"), timeout=0.2'),
        "NotReady",
        "'ready'",
        "stdout | starting",
    ),
    case(
        "the container exits at once",
        starts('"host", command=["sh", "-c", "echo starting; echo no config >&2; exit 3"], ports=[6379]'),
        "ContainerExited",
        "code 3",
        "stdout | starting",
        "stderr | no config",
    ),
    case(
        "the container is ended by a signal",
        starts('"host", command=["python3", "-c", "import ctypes; ctypes.string_at(0)"], ports=[6379]'),
        "ContainerExited",
        "code 139, SIGSEGV",
        "no output",
    ),
    case(
        "the container does not end",
        'container("host", command="sleep 60").wait(timeout=0.1)',
        "NotReady",
        "did not exit within 0.1 s",
    ),
)

ARGUMENTS: Final = (
    case(
        "a port that is none: `ports=[99999]`",
        starts('"host", ports=[99999]'),
        "SpecInvalid",
        "99999",
        "65535",
    ),
    case("one for a list: `ports=6379`", starts('"host", ports=6379'), "SpecInvalid", "ports=[6379]"),
    case(
        "a port of this machine without a list: `host_access=8080`",
        starts('"host", host_access=8080'),
        "SpecInvalid",
        "host_access=[8080]",
    ),
    case(
        'a name for this machine, and no port: `extra_hosts={"api": "host-gateway"}`',
        starts('"host", extra_hosts={"api": "host-gateway"}'),
        "SpecInvalid",
        "host_access=[8080]",
    ),
    case(
        'one for pairs: `volumes="./data"`',
        starts('"host", volumes="./data"'),
        "SpecInvalid",
        "volumes={",
    ),
    case(
        "a command that cannot be split: an open quotation mark",
        starts("""'host', command='sh -c "echo'"""),
        "SpecInvalid",
        "No closing quotation",
    ),
    case(
        'a capability that is none: `cap_add=["NET_ADMINS"]`',
        starts('"host", command="true", cap_add=["NET_ADMINS"]'),
        "SpecInvalid",
        "'NET_ADMINS'",
    ),
    case(
        'a profile that is not there: `seccomp="strict"`',
        starts('"host", command="true", seccomp="strict"'),
        "SpecInvalid",
        "unconfined",
    ),
    case(
        "a profile with an action that is none",
        """
        import pathlib
        rules = '[{"names": ["sync"], "action": "DENY"}]'
        text = f'{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": {rules}}}'
        pathlib.Path("strict.json").write_text(text)
        container("host", command="true", seccomp="strict.json")
        """,
        "SpecInvalid",
        "syscalls[0].action",
    ),
    case(
        "a profile that refuses what every start calls",
        """
        import pathlib
        pathlib.Path("strict.json").write_text('{"defaultAction": "SCMP_ACT_ERRNO"}')
        container("host", command="true", seccomp="strict.json", no_new_privs=True)
        """,
        "SpecInvalid",
        "execve",
    ),
    case(
        'a name that peers could not resolve: `name="my box"`',
        starts('"host", name="my box"'),
        "SpecInvalid",
        "'my box'",
    ),
    case(
        "a host name that is too long",
        starts('"host", hostname="x.y" * 25'),
        "SpecInvalid",
        "75 characters",
        "64",
    ),
    case(
        "the name is taken",
        """
        container("host", name="box", command="sleep 60")
        container("host", name="box", command="sleep 60")
        """,
        "SpecInvalid",
        "box is there already",
    ),
    case(
        'several networks: `network=["a", "b"]`',
        starts('"host", command="true", network=["a", "b"]'),
        "SpecInvalid",
        "a container is on one",
    ),
    case(
        'a port of this machine: `ports={"80/tcp": 8080}`',
        starts('"host", ports={"80/tcp": 8080}'),
        "SpecInvalid",
        "address()",
    ),
    case(
        'a keyword with a slip: `comand="true"`',
        starts('"host", comand="true"'),
        "UnknownKeyword",
        "did you mean command=",
    ),
    case(
        "a keyword of another tool: `environment={}`",
        starts('"host", environment={}'),
        "UnknownKeyword",
        "env=",
    ),
    case("what is no image: `container(None)`", starts("None"), "SpecInvalid", "images.build()"),
    case(
        "there is no such network",
        starts('"host", command="true", network="backend"'),
        "SpecInvalid",
        "backend",
    ),
    case(
        "the folder to be mounted is not there",
        starts('"host", volumes={"./no-such": "/data"}'),
        "SpecInvalid",
        "./no-such",
    ),
    case(
        'a place that is not absolute: `volumes={"/etc": "data"}`',
        starts('"host", volumes={"/etc": "data"}'),
        "SpecInvalid",
        "/data",
    ),
    case(
        'something over the root: `tmpfs=["/"]`',
        starts('"host", tmpfs=["/"]'),
        "SpecInvalid",
        "over / of a container",
    ),
    case(
        "a zero byte in a path",
        starts('"host", workdir="/srv\\0"'),
        "SpecInvalid",
        "zero byte",
    ),
    case(
        'a mode that is none: `volumes={"/etc": "/data:rx"}`',
        starts('"host", volumes={"/etc": "/data:rx"}'),
        "SpecInvalid",
        "'rx'",
    ),
    case(
        'a size that is none: `tmpfs={"/data": "64 percent"}`',
        starts('"host", tmpfs={"/data": "64 percent"}'),
        "SpecInvalid",
        "64m",
    ),
    case(
        'a signal that is none: `stop_signal="SIGSTOPPED"`',
        starts('"host", stop_signal="SIGSTOPPED"'),
        "SpecInvalid",
        "'SIGSTOPPED'",
    ),
    case("a time that is none: `timeout=-1`", starts('"host", timeout=-1'), "SpecInvalid", "-1", "seconds"),
    case(
        'a policy that is none: `pull="sometimes"`',
        starts('"host", pull="sometimes"'),
        "SpecInvalid",
        "missing, always, never",
    ),
    case('a pattern that is none: `log("(")`', starts('"host", ready=log("(")'), "SpecInvalid", "'('"),
    case(
        'a storage that is none: `storage="tape"`',
        starts('"host", storage="tape"'),
        "SpecInvalid",
        "'tape'",
        "disk",
    ),
    case(
        'a limit that is none: `limits={"mem_limit": "1g"}`',
        starts('"host", limits={"mem_limit": "1g"}'),
        "SpecInvalid",
        "'mem_limit'",
        "'memory'",
    ),
    case(
        'a limit that nothing can start with: `limits={"memory": "1m"}`',
        starts('"host", limits={"memory": "1m"}'),
        "SpecInvalid",
        "memory of",
        "6m",
    ),
    case(
        'a limit of what lies on disk: `limits={"storage": "1g"}`',
        starts('"host", storage="disk", limits={"storage": "1g"}'),
        "SpecInvalid",
        "disk",
    ),
    case(
        'a limit of a process that is none: `ulimits={"nofiles": 1024}`',
        starts('"host", ulimits={"nofiles": 1024}'),
        "SpecInvalid",
        "'nofiles'",
        "'nofile'",
    ),
    case(
        "a soft limit above the hard one",
        starts('"host", ulimits={"nofile": (2048, 1024)}'),
        "SpecInvalid",
        "2048",
    ),
    case(
        "a limit that the kernel refuses",
        starts('"host", command="true", ulimits={"nofile": 1 << 40}'),
        "StartError",
        "nofile",
    ),
    case("no shared memory: `shm_size=0`", starts('"host", shm_size=0'), "SpecInvalid", "shm_size=0"),
    case("a probe that is none: `ready=80`", starts('"host", ready=80'), "SpecInvalid", "80 is not a probe"),
    case(
        "`env_file=` is not there", starts('"host", env_file="./no-such.env"'), "SpecInvalid", "no-such.env"
    ),
    case(
        'a scope that is none: `scope="forever"`',
        starts('"host", scope="forever"'),
        "SpecInvalid",
        "'forever'",
        "function",
    ),
    case(
        "`address()` of a container that exposes no port",
        'container("host", command="sleep 60").address()',
        "SpecInvalid",
        "no port",
    ),
    case(
        "a file inside is not there",
        'container("host", command="sleep 60").read_text("/no/such")',
        "PathMissing",
        "/no/such",
    ),
    case(
        "an exec in a paused container",
        'box = container("host", command="sleep 60"); box.pause(); box.exec("true")',
        "NotRunning",
        "paused",
        "unpause()",
    ),
    case(
        "a folder is read as a file",
        'container("host", command="sleep 60").read_text("/etc")',
        "SpecInvalid",
        "/etc",
        "copy_out",
    ),
    case(
        "a file of more than 256 MiB is read at once",
        'box = container("host", command="sleep 60"); box.exec("truncate -s 1500M /srv/x"); '
        'box.read_bytes("/srv/x")',
        "SpecInvalid",
        "/srv/x",
        "copy_out",
    ),
    case(
        "a device is copied out",
        'container("host", command="sleep 60").copy_out("/dev/zero", "zero")',
        "SpecInvalid",
        "/dev/zero",
        "device",
    ),
    case(
        "a device is written as a file",
        'container("host", command="sleep 60").write_text("/dev/null", "text")',
        "SpecInvalid",
        "/dev/null",
        "device",
    ),
    case(
        "a file of /proc that gives nothing is read",
        'container("host", command="sleep 60").read_text("/proc/1/mem")',
        "EngineError",
        "/proc/1/mem",
    ),
    case(
        "a file is written where a volume is read-only",
        'container("host", command="sleep 60", volumes={".": "/data:ro"}).write_text("/data/x", "text")',
        "EngineError",
        "/data",
        "read-only",
    ),
)

# The image is nowhere: what is refused before anything starts is refused before it is looked for.
LACKING: Final = (
    case(
        "a volume with a name",
        starts('"127.0.0.1:1/app", volumes={"data": "/data"}'),
        "Unsupported",
        "data",
        "./path",
    ),
)
