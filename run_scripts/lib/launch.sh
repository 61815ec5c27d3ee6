# How `thinker` is started, as the array `launch`: alone, or by accelerate where NUM_PROCESSES or ACCELERATE_CONFIG asks for
# it. To be sourced from the root of the checkout.
launch=(.venv/bin/python -m thinker.cli)
if [[ ${NUM_PROCESSES:-1} -gt 1 || -n ${ACCELERATE_CONFIG:-} ]]; then
    launch=(.venv/bin/python -m accelerate.commands.launch)
    if [[ -n ${ACCELERATE_CONFIG:-} ]]; then launch+=(--config_file "$ACCELERATE_CONFIG"); fi
    launch+=(--num_processes "${NUM_PROCESSES:-1}" -m thinker.cli)
fi
