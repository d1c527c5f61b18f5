# run DIR UMASK: runs the command in DIR and leaves its status there.
trap '' HUP
umask 077
# When this shell began: field 22 of its stat, the 20th behind its name. Where /proc counts otherwise, nothing is known.
x=
{ read -r x </proc/self/stat; } 2>/dev/null
case $x in "$$ "*) ;; *) x= ;; esac
began() {
	set -- ${1##*) }
	t=${20}
}
began "$x"
printf '%s\n' "$$ $t" >"$1/pid.new" && mv "$1/pid.new" "$1/pid" || exit 1
cd -- "$HOME" || cd /
(umask "$2" && exec sh "$1/command") </dev/null >>"$1/out" 2>>"$1/err"
s=$?
# The disk may be full now, and not for ever.
until printf '%s\n' "$s" >"$1/status.new" && mv -f "$1/status.new" "$1/status"; do
	sleep 5
done
