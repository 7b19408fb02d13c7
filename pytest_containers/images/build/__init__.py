"""A Dockerfile's front end: from its bytes to what is built, in which order, from where.

The way of a build, each step pure but for what the caller does between them::

    dockerfile = parse(content, name="Dockerfile")                    # dockerfile.py
    building = plan(dockerfile, target=None, build_args={}, ...)      # stages.py
    for demand in demands(building): ...                              # demand.py: refuse what cannot be had
    for number in every wave of building.waves():                     # or by building.graph()
        stage = building.stage(number)
        # An image's config may have ONBUILD triggers: building = building.with_triggers(number, onbuild)
        scope = (last scope of its base stage, or building.scope).begin(base environment)
        for step in stage.steps:
            instruction = expand(step.instruction, scope)             # expand.py
            ...                                                       # do what it says: match on its class
            scope = scope.after(instruction)                          # variables.py

What an instruction may be is in instruction.py: frozen nouns with validated fields. A RUN's
``execution(shell)`` says what is started, ``mounts[i].resolved(workdir, ordinal)`` what it sees and
``step.origins[i]`` where that is from; its environment is ``scope.command_env()`` and, kept out of
cache keys and history, ``scope.proxy_env()``. ``scope.env`` is the environment of the image.
ENTRYPOINT clears an inherited command, but not one that this stage's own CMD has set. ignore.py
reads ``.dockerignore``, wildcard.py the patterns of COPY sources, mode.py ``--chmod``, remote.py
URLs and git sources of ADD.

Every error is a SpecInvalid whose first sentence begins with ``Dockerfile:LINE:``. What is legal
and better written otherwise is in ``Plan.notices``. Grammar and meaning are those of
https://docs.docker.com/reference/dockerfile/ as BuildKit implements them.
"""
