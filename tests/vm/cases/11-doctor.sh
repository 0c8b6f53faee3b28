# On a bare Debian 12 that can run everything, joey doctor finds nothing bad.
. /lane/cases/steps.sh
joey_is_up

joey doctor || fail "doctor finds this host bad"
