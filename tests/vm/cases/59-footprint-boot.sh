# A pod is declared before the boot that 60 measures.
# vm: asked
# vm: seconds 600
. /lane/cases/steps.sh
joey_is_fresh

pod first kangaroo-backend:1.14.2
is_ready first
