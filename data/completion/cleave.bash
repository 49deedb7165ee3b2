# bash completion for cleave. The options are those that `cleave COMMAND --help` lists.

_cleave()
{
	local cur=$2 prev=$3 words= IFS=$' \t\n'

	COMPREPLY=()
	# An equals sign is a word of its own to readline: --cpu=max arrives as three.
	[[ $cur == = ]] && cur=
	[[ $prev == = && $COMP_CWORD -ge 2 ]] && prev=${COMP_WORDS[COMP_CWORD - 2]}

	if [[ $COMP_CWORD -eq 1 ]]; then
		words='run image disk ps ctl stop console ssh doctor compare version help'
	elif [[ ${COMP_WORDS[1]} == help ]]; then
		words='run image disk ps ctl stop console ssh doctor compare version help'
	elif [[ ${COMP_WORDS[1]} == disk ]]; then
		case $prev in
		--format | --to | --backing-format) words='raw qcow2' ;;
		--compat) words='2 3' ;;
		--refcount-bits) words='1 2 4 8 16 32 64' ;;
		--cluster-size) words='512 4K 64K 2M' ;;
		--snapshot) return ;;
		disk) words='create info check convert resize map' ;;
		*)
			if [[ $cur != -* ]]; then
				local IFS=$'\n'
				compopt -o filenames 2>/dev/null
				mapfile -t COMPREPLY < <(compgen -f -- "$cur")
				return
			fi
			words='--format --to --cluster-size --compat --refcount-bits --backing
				--backing-format --snapshot --force --repair --shrink --json --help' ;;
		esac
	elif [[ ${COMP_WORDS[1]} == image ]]; then
		case $prev in
		--size | --package | --name) return ;;
		image) words='build list info rm' ;;
		build) words='debian:12 --size --package --name --force --help' ;;
		info | rm) words=$(cleave image list 2>/dev/null | awk '$1 && !/^I/ { print $1 }') ;;
		*) words='--size --package --name --force --instance --json --help' ;;
		esac
	elif [[ ${COMP_WORDS[1]} == doctor ]]; then
		words='--json --help'
	elif [[ ${COMP_WORDS[1]} == compare ]]; then
		case $prev in
		--kernel | --initrd | --svg)
			local IFS=$'\n'
			compopt -o filenames 2>/dev/null
			mapfile -t COMPREPLY < <(compgen -f -- "$cur")
			return ;;
		--engine) words='interp dbt kvm interp,dbt interp,dbt,kvm' ;;
		--append | --until) return ;;
		*) words='--engine --quick --kernel --initrd --append --until --json --svg --help' ;;
		esac
	elif [[ ${COMP_WORDS[1]} == ps ]]; then
		words='--json --help'
	elif [[ ${COMP_WORDS[1]} == @(stop|console|ssh|ctl) ]]; then
		words=$(cleave ps 2>/dev/null | awk 'NR > 1 { print $1 }')
		[[ ${COMP_WORDS[1]} == ctl ]] && words+=' status engine pause continue reset resize balloon --json --help'
		[[ ${COMP_WORDS[1]} == stop ]] && words+=' --timeout --force --help'
	elif [[ ${COMP_WORDS[1]} == run ]]; then
		case $prev in
		--kernel | --initrd | --disk | --ssh-key | --user-data)
			local IFS=$'\n'
			compopt -o filenames 2>/dev/null
			mapfile -t COMPREPLY < <(compgen -f -- "$cur")
			return ;;
		--cpu) words='host max x86-64-v1 x86-64-v2 x86-64-v3 x86-64-v4' ;;
		--engine) words='auto kvm dbt interp' ;;
		--pv) words='on off' ;;
		--gdb) words='tcp:127.0.0.1: unix:' ;;
		--console | --virtio-console) words='stdio none pty file=' ;;
		--vsock) words='cid= path=' ;;
		--on-io-error) words='report stop' ;;
		--sandbox) words='on off' ;;
		--log) words='error warn info debug' ;;
		--trace) words='exc int pio mmio irq timer msr cpuid mmu mode block disas regs dbt perf boot
			reset guest all' ;;
		--net) words='user user,forward= user,restrict tap= none' ;;
		--name | --hostname | --append | --memory | --cpus | --icount-hash | --balloon) return ;;
		*) words='--kernel --initrd --append --memory --cpus --cpu --engine --engine-dwell --gdb --gdb-wait --pv --console --disk --on-io-error
			--name --keep --ssh-key --hostname --user-data --net --virtio-console --balloon --vsock --sandbox --debug-exit --no-reboot --stats --icount --icount-hash
			--log --trace --help' ;;
		esac
	fi
	mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
}

complete -F _cleave cleave
