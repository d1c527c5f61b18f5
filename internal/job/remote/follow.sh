# follow ID OUT ERR NAP TRIES: sends the output from the offsets OUT and ERR on, in frames "out START LENGTH" and
# "err START LENGTH" with LENGTH bytes behind them, then "status N". START is a multiple of 4096 at or below what was asked
# for. "lost" says that the command is gone and has left no status, "alive" that the connection should be, and "short NAME"
# that a file became shorter, as by ">/dev/stdout" in the command, and goes on from its beginning.
LC_ALL=C
export LC_ALL
cd -- "$HOME/.vast-ssh-run/$1" 2>/dev/null && [ -d started ] || {
	printf 'absent\n'
	exit 0
}
o=$2 e=$3 nap=$4 tries=$5 idle=0 dead=0
emit() {
	b=$(($2 / 4096))
	l=$(($3 - b * 4096))
	printf '%s %s %s\n' "$1" $((b * 4096)) "$l" || exit 1
	dd if="$1" bs=4096 skip="$b" 2>/dev/null | head -c "$l" || exit 1
}
while :; do
	s=
	if [ -f status ]; then
		read -r s <status
	elif living; then
		dead=0
	elif [ -f pid ]; then
		dead=$((dead + 5)) # it is gone; its status may be on its way
	else
		dead=$((dead + 1)) # it may not have come yet
	fi
	# The sizes are looked at after the status: what the command wrote is then in them.
	set -- $(stat -c %s out err 2>/dev/null)
	if [ $# -ne 2 ]; then
		[ ! -f out ] || [ ! -f err ] || s= # nobody could look: the status is told when somebody can
		set -- "$o" "$e"
	fi
	if [ "$1" -lt "$o" ]; then
		printf 'short out\n' || exit 1
		o=0
	fi
	if [ "$2" -lt "$e" ]; then
		printf 'short err\n' || exit 1
		e=0
	fi
	if [ "$1" -gt "$o" ]; then
		emit out "$o" "$1"
		o=$1
	fi
	if [ "$2" -gt "$e" ]; then
		emit err "$e" "$2"
		e=$2
	fi
	if [ -n "$s" ]; then
		printf 'status %s\n' "$s"
		exit 0
	fi
	if [ "$dead" -gt "$tries" ]; then
		printf 'lost\n'
		exit 0
	fi
	idle=$((idle + 1))
	if [ "$idle" -ge 10 ]; then
		printf 'alive\n' || exit 1
		idle=0
	fi
	sleep "$nap"
done
