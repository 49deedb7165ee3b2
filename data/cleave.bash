# Completion of cleave for bash.
_cleave() {
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]}
	if [ "$COMP_CWORD" = 1 ]; then
		mapfile -t COMPREPLY < <(compgen -W "run doctor version help" -- "$cur")
		return
	fi
	case $prev in
	--kernel | --initrd) mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;
	--engine) mapfile -t COMPREPLY < <(compgen -W "auto interp" -- "$cur") ;;
	--console) mapfile -t COMPREPLY < <(compgen -W "stdio none pty file=" -- "$cur") ;;
	--cpu) mapfile -t COMPREPLY < <(compgen -W "host max x86-64-v1 x86-64-v2 x86-64-v3 x86-64-v4" -- "$cur") ;;
	--log) mapfile -t COMPREPLY < <(compgen -W "error warn info debug" -- "$cur") ;;
	*)
		case ${COMP_WORDS[1]} in
		run) mapfile -t COMPREPLY < <(compgen -W "--kernel --initrd --append --memory --cpus --cpu --engine --console --debug-exit --no-reboot --stats --log --trace --help" -- "$cur") ;;
		doctor) mapfile -t COMPREPLY < <(compgen -W "--json --help" -- "$cur") ;;
		esac
		;;
	esac
}
complete -F _cleave cleave
