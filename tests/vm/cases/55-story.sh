# The whole story of `joey learn` under systemd with real limits: one container, Deployments, Services, Ingress, policies, metrics.
# vm: seconds 1800
. /lane/cases/steps.sh
joey_is_fresh

for archive in /lane/images/*.oci.tar; do
    joey image import "$archive" >/dev/null
done
joey learn --all --kubectl /lane/bin/kubectl
is "pods left of the story" "$(k get pods -A --no-headers 2>/dev/null | wc -l)" 0
