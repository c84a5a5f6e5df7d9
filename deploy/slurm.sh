#!/bin/bash
# Training on Slurm: sbatch deploy/slurm.sh, from the root of the repository, in an environment with '.[cuda]'.
# $SCRATCH is a folder that all nodes see. Options after the script's name go to the training.
#SBATCH --job-name=jaxgen
#SBATCH --nodes=2
#SBATCH --gpus-per-node=1
#SBATCH --ntasks-per-node=1   # one process a node, which takes all of its GPUs
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120     # to every process, two minutes before the time is up: it saves and exits with 75
#SBATCH --requeue             # after preemption and node failure Slurm starts the job again itself
#SBATCH --open-mode=append    # one log for all of its lives

trap : TERM # should the signal come to this shell too, it lives on to see how the training ends

srun python -m jaxgen.train --config configs/digits_mel.py \
    --data.root "$SCRATCH/fsdd" --workdir "$SCRATCH/runs/digits_mel" --distributed auto "$@"
code=$?

# 75: stopped and saved, the same command goes on. From 128 on: killed, or aborted by jax because another process was, which
# is worth some more tries. Anything else is done (0), or would only fail again.
if [ "$code" -eq 75 ] || { [ "$code" -ge 128 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 10 ]; }; then
    exec scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
