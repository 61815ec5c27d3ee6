# How `thinker` is started, as the array `launch`: alone, in NUM_PROCESSES processes by torchrun (DDP), or by accelerate where
# ACCELERATE_CONFIG says how weights are sharded. To be sourced from the root of the checkout.
if [[ ! ${NUM_PROCESSES:-1} =~ ^[1-9][0-9]*$ ]]; then
    echo "NUM_PROCESSES is '$NUM_PROCESSES', expected a number of processes, at least 1" >&2
    exit 2
fi
if [[ -n ${ACCELERATE_CONFIG:-} && ! -f $ACCELERATE_CONFIG ]]; then
    echo "ACCELERATE_CONFIG is '$ACCELERATE_CONFIG', expected a file such as run_scripts/configs/zero2.yaml" >&2
    exit 2
fi
launch=(.venv/bin/python -m thinker.cli)
if [[ -n ${ACCELERATE_CONFIG:-} ]]; then
    launch=(.venv/bin/python -m accelerate.commands.launch --config_file "$ACCELERATE_CONFIG"
        --num_processes "${NUM_PROCESSES:-1}" -m thinker.cli)
elif [[ ${NUM_PROCESSES:-1} -gt 1 ]]; then
    launch=(.venv/bin/python -m torch.distributed.run --standalone --nproc_per_node "$NUM_PROCESSES" -m thinker.cli)
fi
export THINKER_NUM_PROCESSES=${NUM_PROCESSES:-1} # which the run compares with what was started
