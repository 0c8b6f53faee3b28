# Manifests in /etc/joey/manifests are applied when they appear and change; what no file declares any more goes; a typo deletes nothing.
# vm: seconds 600
. /lane/cases/steps.sh
joey_is_fresh
manifests=/etc/joey/manifests

cat >"$manifests/web.yaml" <<'END'
# The pod, and what it reads.
apiVersion: v1
kind: ConfigMap
metadata: {name: from-a-file}
data: {a: "1"}
---
apiVersion: v1
kind: Pod
metadata: {name: static}
spec:
  containers:
  - {name: main, image: "kangaroo-backend:1.14.2", imagePullPolicy: IfNotPresent}
END
there() { k get pod static >/dev/null 2>&1; }
within 30 "the pod of the file is there" there
is_ready static
k create configmap by-hand --from-literal=a=1

value_is() { [ "$(k get configmap from-a-file -o 'jsonpath={.data.a}' 2>/dev/null)" = "$1" ]; }
sed -i 's/a: "1"/a: "2"/' "$manifests/web.yaml"
within 30 "a change of the file arrives" value_is 2

# A typo: told with file and line, and nothing is deleted.
cp "$manifests/web.yaml" "$keep/web.yaml"
sed -i 's/kind: Pod/kind: Pood/' "$manifests/web.yaml"
told() { joey doctor | grep -q 'web.yaml:7: Pood static: no matches for kind'; }
within 30 "the typo is told with its line" told
has "the journal" "$(journalctl -u joey.service --no-pager -o cat)" 'web.yaml:7: Pood static: no matches for kind'
there || fail "a typo has deleted the pod"
cp "$keep/web.yaml" "$manifests/web.yaml"
mended() { joey doctor | grep -q 'nothing is wrong with /etc/joey/manifests'; }
within 60 "the file is mended" mended

# While Joey is down: one file goes, another comes.
systemctl stop joey.service
rm "$manifests/web.yaml"
echo '{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "second"}}' >"$manifests/second.json"
systemctl start joey.service
gone() { ! k get pod static >/dev/null 2>&1 && ! k get configmap from-a-file >/dev/null 2>&1; }
within 60 "what no file declares is gone" gone
within 30 "the new file is applied" k get configmap second
k get configmap by-hand >/dev/null || fail "what people made was deleted"
rm "$manifests/second.json"
second_gone() { ! k get configmap second >/dev/null 2>&1; }
within 30 "its file is gone, and so is it" second_gone
k delete configmap by-hand
