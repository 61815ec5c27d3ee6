# How `thinker` is started, as the array `launch`: alone, in NUM_PROCESSES processes by torchrun (DDP), or by accelerate where
# ACCELERATE_CONFIG says how weights are sharded. To be sourced from the root of the checkout.
launch=(.venv/bin/python -m thinker.cli)
if [[ -n ${ACCELERATE_CONFIG:-} ]]; then
    launch=(.venv/bin/python -m accelerate.commands.launch --config_file "$ACCELERATE_CONFIG"
        --num_processes "${NUM_PROCESSES:-1}" -m thinker.cli)
elif [[ ${NUM_PROCESSES:-1} -gt 1 ]]; then
    launch=(.venv/bin/python -m torch.distributed.run --standalone --nproc_per_node "$NUM_PROCESSES" -m thinker.cli)
fi
export THINKER_NUM_PROCESSES=${NUM_PROCESSES:-1} # which the run compares with what was started
