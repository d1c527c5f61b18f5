# others ID: "run OTHER" for each run but ID whose command goes on.
cd -- "$HOME/.vast-ssh-run" 2>/dev/null || {
	printf 'end\n'
	exit 0
}
for d in *; do
	case $d in "$1" | *[!0-9a-f]*) continue ;; esac
	(cd -- "$d" 2>/dev/null && [ -d started ] && [ ! -f status ] && living) || continue
	printf 'run %s\n' "$d" || exit 1
done
printf 'end\n'
