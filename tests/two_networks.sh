#!/bin/sh
# two_networks.sh MPIRUN PROGRAM [ARGUMENTS]: four ranks of it on two "hosts", which are network namespaces of this machine
# joined by a cable (veth). Ends with what mpirun does; with 77 where the machine does not allow namespaces.
set -u
mpirun=$1
shift
a=anyfp8_a_$$ b=anyfp8_b_$$
folder=$(mktemp -d)
cleanup() {
  ip netns del "$a" 2>/dev/null
  ip netns del "$b" 2>/dev/null
  rm -rf "$folder"
}
trap cleanup EXIT
{ ip netns add "$a" && ip netns add "$b" && ip link add va$$ type veth peer name vb$$ &&
  ip link set va$$ netns "$a" && ip link set vb$$ netns "$b" &&
  ip -n "$a" addr add 10.213.0.1/24 dev va$$ && ip -n "$b" addr add 10.213.0.2/24 dev vb$$ &&
  ip -n "$a" link set va$$ up && ip -n "$b" link set vb$$ up && ip -n "$a" link set lo up && ip -n "$b" link set lo up
} >/dev/null 2>"$folder/why" || {
  echo "two_networks: this machine gives no network namespaces, so ranks across a network were NOT tested: $(head -n 1 "$folder/why")"
  exit 77
}
# In the place of ssh: mpirun's agent gets a host and a command.
printf '#!/bin/sh\ncase $1 in 10.213.0.2) shift; exec ip netns exec %s sh -c "$*";; *) shift; exec sh -c "$*";; esac\n' "$b" >"$folder/agent"
chmod +x "$folder/agent"
[ "$(id -u)" = 0 ] && set -- --allow-run-as-root "$@"
ip netns exec "$a" "$mpirun" --oversubscribe -n 4 --host 10.213.0.1:2,10.213.0.2:2 --map-by node \
  --mca plm_rsh_agent "$folder/agent" --mca plm_rsh_no_tree_spawn 1 --mca oob_tcp_if_include 10.213.0.0/24 \
  --mca btl tcp,self --mca btl_tcp_if_include 10.213.0.0/24 -x ANYFP8_THREADS=1 -x ASAN_OPTIONS=detect_leaks=0 "$@"
