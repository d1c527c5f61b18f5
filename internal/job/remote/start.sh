# start ID SHA256 SETSID NAP TRIES RUNNER <command: starts the command once, whoever asks, and says so when it is started.
# Nothing is written to the connection before, since a write to one that is gone would end this script half way.
mask=$(umask)
umask 077
d=$HOME/.vast-ssh-run/$1
cd -- "$d" || die 'the directory of the run is gone'
if [ ! -d started ]; then
	t=command.$$
	cat >"$t" || die 'the command cannot be written'
	x=$(sha <"$t")
	if [ "${x%% *}" != "$2" ]; then
		rm -f "$t"
		die 'the command did not arrive whole'
	fi
	if mkdir started 2>/dev/null; then
		mv "$t" command && : >out && : >err && printf '%s\n' "$6" >run || die 'the command cannot be written'
		cd -- "$HOME"
		trap '' HUP
		if [ "$3" = 1 ]; then
			setsid sh "$d/run" "$d" "$mask" </dev/null >/dev/null 2>&1 &
		else
			sh "$d/run" "$d" "$mask" </dev/null >/dev/null 2>&1 &
		fi
		cd -- "$d"
	else
		rm -f "$t"
		[ -d started ] || die 'the lock of the command cannot be made'
	fi
fi
i=0
until [ -f pid ]; do
	i=$((i + 1))
	[ "$i" -le "$5" ] || die 'the command was to be started and shows no sign of it'
	sleep "$4"
done
printf 'end\n'
