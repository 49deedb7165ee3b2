#include "cli/cli.h"

#include "base/bits.h"
#include "base/trace.h"

#include <stdio.h>
#include <string.h>

void help_general(void)
{
	fputs("usage: cleave COMMAND [OPTION...]\n"
	      "\n"
	      "Runs virtual machines.\n"
	      "\n"
	      "Commands:\n"
	      "  run       start a machine from an image or a kernel\n"
	      "  image     build guest images, list and remove them\n"
	      "  disk      make disk images, look at them, check, copy and resize them\n"
	      "  ps        list the machines that run\n"
	      "  ctl       move a running machine to another engine, pause it, resize its disks\n"
	      "  stop      switch a machine off\n"
	      "  console   sit down at a machine's serial console\n"
	      "  ssh       log in to a machine\n"
	      "  doctor    say what this host offers to machines\n"
	      "  compare   measure this host's methods of virtualization side by side\n"
	      "  version   print the version\n"
	      "  help      explain a command, as in: cleave help run\n"
	      "\n"
	      "Example:\n"
	      "  cleave run debian:12\n",
	      stdout);
}

static void help_run(void)
{
	fputs("usage: cleave run IMAGE [OPTION...]\n"
	      "       cleave run --kernel FILE [OPTION...]\n"
	      "\n"
	      "Starts a new machine and stays until it ends. IMAGE is one that `cleave image list`\n"
	      "lists, or debian:12, which is built first if it is missing (minutes). Its machine has a\n"
	      "disk of its own, a network behind NAT, and lets you in by `cleave ssh`.\n"
	      "\n"
	      "  --keep            keep the disk; with --name, that one is taken up again\n"
	      "  --ssh-key FILE    public keys that may log in as root, besides your machines' own\n"
	      "  --hostname NAME   what the guest calls itself; default the machine's name\n"
	      "  --user-data FILE  for cloud-init, in images with the package of that name\n"
	      "  --kernel FILE     Linux bzImage, ELF file with a PVH note (vmlinux), or multiboot 1\n"
	      "  --initrd FILE     initial RAM disk; may be repeated (Linux gets all as one). For\n"
	      "                    multiboot a module; 'FILE TEXT' gives it a command line\n"
	      "  --append TEXT     the kernel's command line\n"
	      "  --memory SIZE     RAM, as 512M or 5G; default 512M, 1G for an image\n"
	      "  --cpus N          1 to 64; default 1\n"
	      "  --cpu MODEL       host, max, or x86-64-v1 to x86-64-v4, then ,+NAME or ,-NAME for\n"
	      "                    features as /proc/cpuinfo names them; default max\n"
	      "  --engine NAME     how guest code runs: auto, kvm, dbt or interp; default auto\n"
	      "  --console KIND    where the serial line goes: stdio, none, pty or file=PATH\n"
	      "  --virtio-console KIND[,name=NAME]\n"
	      "                    a virtio console (hvc0) in the same way; repeated, further ports\n"
	      "  --balloon SIZE[,stats=SECONDS]\n"
	      "                    a balloon that takes SIZE of the guest's memory, and gives what\n"
	      "                    the guest does not use back to the host; 0 is a size, too\n"
	      "  --vsock cid=N,path=SOCKET\n"
	      "                    sockets between host and guest, by the Unix socket SOCKET\n"
	      "  --disk FILE[,...] a disk; may be repeated. FILE is a file, a block device or an nbd://\n"
	      "                    URI. Behind commas: format=raw or qcow2, readonly, direct,\n"
	      "                    serial=TEXT, queues=N, iops=N, bps=SIZE, iops-burst=N,\n"
	      "                    bps-burst=SIZE, backing (follow the image's backing file) or\n"
	      "                    backing=FILE,backing-format=raw or qcow2, snapshot=NAME\n"
	      "  --on-io-error WHAT report (the guest sees it) or stop (the machine waits until you\n"
	      "                    mend it and go on with Ctrl-A c or SIGCONT); default report\n"
	      "  --pv on|off       offer the guest the paravirtual interface that Linux knows from KVM:\n"
	      "                    clock, stolen time, IPIs, TLB flushes by hypercall; default on\n"
	      "  --gdb tcp:127.0.0.1:PORT or unix:PATH\n"
	      "                    let gdb debug the guest there (target remote), on any engine\n"
	      "  --gdb-wait        with it: start when gdb says so\n"
	      "  --engine-dwell MS[,ENGINE...]\n"
	      "                    move between these engines, or all, at random times MS apart in\n"
	      "                    the mean: to test them\n"
	      "  --name NAME       what ps, stop, console and ssh call the machine; an image's disk is\n"
	      "                    kept under that name, and taken up again by it\n"
	      "  --net user[,WORD...]   a network card behind NAT, without root; may be repeated:\n"
	      "                    forward=[udp:][ADDRESS:]PORT:GUESTPORT lets the host in, restrict\n"
	      "                    lets the guest reach nothing else, hostname=NAME, mtu=BYTES,\n"
	      "                    mac=ADDRESS\n"
	      "  --net tap=INTERFACE[,mac=ADDRESS]   a card on a tap interface of the host\n"
	      "  --net none        no card: the default, but for images: those have one behind NAT\n"
	      "  --debug-exit      port 0xf4 ends the process: status (value << 1) | 1\n"
	      "  --no-reboot       a reset ends the machine in place of restarting it\n"
	      "  --sandbox on|off  give up all system calls and files that the machine does not\n"
	      "                    need once it runs (on; off is for debuggers)\n"
	      "  --stats           print counters at the end\n"
	      "  --icount          deterministic: time is the count of instructions; one CPU only\n"
	      "  --icount-hash N   with it, a hash of the registers every N instructions, to stderr\n"
	      "  --log LEVEL       error, warn, info or debug; default warn\n"
	      "  --trace LIST      trace points, separated by commas, to stderr or to file=PATH:\n",
	      stdout);
	trace_list();
	fputs("\n"
	      "On a terminal Ctrl-A is the escape key: Ctrl-A x ends the machine, Ctrl-A h lists more.\n"
	      "\n"
	      "Exit status: 0 power-off, Ctrl-A x or a reset with --no-reboot; 1 a mistake in the\n"
	      "options or files; 2 the engine failed; 3 a triple fault with --no-reboot; with\n"
	      "--debug-exit what the guest wrote; 128 + N ended by signal N.\n"
	      "\n"
	      "Examples:\n"
	      "  cleave run debian:12\n"
	      "  cleave run debian:12 --name web --memory 2G --cpus 2\n"
	      "  cleave run --kernel vmlinuz --initrd initrd.img --append 'console=ttyS0' --memory 1G\n"
	      "  cleave run --kernel vmlinuz --initrd initrd.img --disk root.qcow2,format=qcow2 \\\n"
	      "      --append 'console=ttyS0 root=/dev/vda'\n"
	      "  cleave run --kernel vmlinuz --initrd rd --name web --net user,forward=127.0.0.1:8080:80\n"
	      "  cleave run --kernel test.elf --debug-exit --append 'smp 3' --cpus 4\n"
	      "  cleave run --kernel vmlinuz --cpu x86-64-v3,-avx2 --trace exc,int,file=/tmp/t\n",
	      stdout);
}

static void help_image(void)
{
	fputs("usage: cleave image COMMAND [OPTION...]\n"
	      "\n"
	      "Commands:\n"
	      "  build SYSTEM   make an image of debian:12 from its packages, without root\n"
	      "  list           list images, and the instances whose disks are kept\n"
	      "  info IMAGE     describe an image, with root's password on the console\n"
	      "  rm NAME        remove an image\n"
	      "\n"
	      "  --size SIZE    build: of the disk; default 4G\n"
	      "  --package P    build: install this one, too; may be repeated\n"
	      "  --name NAME    build: what to call it; default the system's name\n"
	      "  --force        build: replace an image that is there\n"
	      "  --instance     rm: a kept instance in place of an image\n"
	      "  --json         list, info: for scripts\n"
	      "\n"
	      "Examples:\n"
	      "  cleave image build debian:12\n"
	      "  cleave image build debian:12 --name web --package nginx --size 10G\n"
	      "  cleave image rm web\n",
	      stdout);
}

static void help_disk(void)
{
	fputs("usage: cleave disk COMMAND [OPTION...] FILE...\n"
	      "\n"
	      "Commands:\n"
	      "  create FILE [SIZE]      make an image; without SIZE as large as the backing file\n"
	      "  info FILE               say what an image is\n"
	      "  check FILE              compare a qcow2 image's reference counts with its tables\n"
	      "  convert SOURCE TARGET   copy a disk into a new image\n"
	      "  resize FILE SIZE        make a disk larger or smaller, also by +SIZE\n"
	      "  map FILE                say which parts of a disk are stored, and where\n"
	      "\n"
	      "  --format NAME           raw or qcow2: what to create (default qcow2), or what the\n"
	      "                          image is (default raw; qcow2 is never guessed)\n"
	      "  --to NAME               convert: the target's format; default qcow2\n"
	      "  --cluster-size SIZE     create, convert: from 512 to 2M; default 64K\n"
	      "  --compat N              create, convert: qcow2 version 2 or 3; default 3\n"
	      "  --refcount-bits N       create, convert: from 1 to 64; default 16\n"
	      "  --backing FILE          create: what is not written is FILE's; with\n"
	      "  --backing-format NAME   its format\n"
	      "  --backing               convert, map: follow the backing files\n"
	      "  --snapshot NAME         convert: an internal snapshot in place of the disk\n"
	      "  --force                 create, convert: replace the target\n"
	      "  --repair                check: mend what can be mended\n"
	      "  --shrink                resize: cut off the end of the disk\n"
	      "  --json                  info, check, map: for scripts\n"
	      "\n"
	      "SIZE is bytes, or has K, M, G or T behind it.\n"
	      "\n"
	      "Exit status: 0; 1 for a mistake, or where check finds errors; 128 + N ended by\n"
	      "signal N. A target has its name only once it is complete.\n"
	      "\n"
	      "Examples:\n"
	      "  cleave disk create root.qcow2 10G\n"
	      "  cleave disk create --backing base.img --backing-format raw overlay.qcow2\n"
	      "  cleave disk convert --format qcow2 --to raw root.qcow2 root.img\n"
	      "  cleave disk check --repair root.qcow2\n",
	      stdout);
}

static void help_ps(void)
{
	fputs("usage: cleave ps [--json]\n"
	      "\n"
	      "Lists your machines that run on this host, with the ports that lead into them.\n"
	      "\n"
	      "  --json   what each says of itself, for scripts (docs/control.md)\n"
	      "\n"
	      "Example:\n"
	      "  cleave ps --json\n",
	      stdout);
}

static void help_stop(void)
{
	fputs("usage: cleave stop NAME [--timeout SECONDS] [--force]\n"
	      "\n"
	      "Presses the power button of the machine NAME and waits until it has ended. A guest that\n"
	      "has not switched itself off in time is ended as if the plug was pulled.\n"
	      "\n"
	      "  --timeout SECONDS   how long the guest has, 0 to 86400; default 90\n"
	      "  --force             pull the plug at once\n"
	      "\n"
	      "Examples:\n"
	      "  cleave stop web\n"
	      "  cleave stop web --timeout 10\n",
	      stdout);
}

static void help_ctl(void)
{
	fputs("usage: cleave ctl NAME COMMAND [VALUE...] [--json]\n"
	      "\n"
	      "Tells the running machine NAME something.\n"
	      "\n"
	      "Commands:\n"
	      "  status           say what it is and does\n"
	      "  engine ENGINE    move it, as it runs, to another engine: auto, dbt or interp\n"
	      "  pause            stop its CPUs and its clock\n"
	      "  continue         let them run again\n"
	      "  reset            press its reset button\n"
	      "  resize DISK SIZE make a disk larger, also by +SIZE. DISK is vda, vdb ... in the\n"
	      "                   order in which the machine got them\n"
	      "  balloon SIZE     ask the guest for so much of its memory (with run --balloon)\n"
	      "\n"
	      "  --json           print the answer as it came (docs/control.md)\n"
	      "\n"
	      "Examples:\n"
	      "  cleave ctl web engine interp\n"
	      "  cleave ctl web status\n"
	      "  cleave ctl web resize vda +10G     then resize2fs /dev/vda in the guest\n",
	      stdout);
}

static void help_console(void)
{
	fputs("usage: cleave console NAME\n"
	      "\n"
	      "Connects this terminal to the serial console of the machine NAME: first what it printed\n"
	      "last, then what it prints. Ctrl-] leaves; the machine goes on. One at a time.\n"
	      "\n"
	      "Example:\n"
	      "  cleave console web\n",
	      stdout);
}

static void help_ssh(void)
{
	fputs("usage: cleave ssh [-l USER] NAME [COMMAND...]\n"
	      "\n"
	      "Logs in to the machine NAME, or runs COMMAND there, by ssh through the forward that leads\n"
	      "to the guest's port 22. The user is root without -l.\n"
	      "\n"
	      "Examples:\n"
	      "  cleave run --name web --net user,forward=127.0.0.1:2222:22 --kernel ... &\n"
	      "  cleave ssh web uptime\n",
	      stdout);
}

static void help_doctor(void)
{
	fputs("usage: cleave doctor [--json]\n"
	      "\n"
	      "Looks at this host and says what virtual machines and containers can use here, and\n"
	      "what each lack means. Changes nothing.\n"
	      "\n"
	      "  --json   one JSON object, for scripts\n"
	      "\n"
	      "Exit status: 0 if a machine can run here, 1 if not.\n",
	      stdout);
}

static void help_compare(void)
{
	fputs("usage: cleave compare [OPTION...]\n"
	      "\n"
	      "Lets the same fixed work be done by every method that this host has, in turn, and prints\n"
	      "what an operation took: natively, by the interpreter (hardware emulation), by binary\n"
	      "translation, and by KVM (hardware-assisted), the last two with and without the\n"
	      "paravirtual interface. Needs nothing but cleave; takes half a minute.\n"
	      "\n"
	      "  --engine LIST   only these, as interp,dbt,kvm. kvm is measured where a probe finds it to\n"
	      "                  be hardware, or where it is named here\n"
	      "  --quick         a tenth of the work\n"
	      "  --kernel FILE   time the boot of this Linux kernel, too, from the start of cleave to a\n"
	      "                  text on its console\n"
	      "  --initrd FILE   its initial RAM disk\n"
	      "  --append TEXT   its command line; default 'console=ttyS0 panic=-1'\n"
	      "  --until TEXT    that text; default 'as init process', which the kernel says when it\n"
	      "                  starts its first program\n"
	      "  --json          one JSON object in place of the tables\n"
	      "  --svg FILE      draw a picture, too\n"
	      "\n"
	      "Exit status: 0; 1 for a mistake, or if a machine failed.\n"
	      "\n"
	      "Examples:\n"
	      "  cleave compare\n"
	      "  cleave compare --engine interp,dbt --svg methods.svg\n"
	      "  cleave compare --kernel vmlinuz --initrd initrd.img --json\n",
	      stdout);
}

static void help_version(void)
{
	fputs("usage: cleave version\n"
	      "\n"
	      "Prints the version.\n",
	      stdout);
}

static void help_help(void)
{
	fputs("usage: cleave help [COMMAND]\n"
	      "\n"
	      "Explains COMMAND, as `cleave COMMAND --help` does; without it, lists all commands.\n",
	      stdout);
}

static const struct {
	const char *command;
	void (*print)(void);
} pages[] = {
	{ "run", help_run },	     { "image", help_image },	  { "disk", help_disk },
	{ "ps", help_ps },	     { "ctl", help_ctl },	  { "stop", help_stop },
	{ "console", help_console }, { "ssh", help_ssh },	  { "doctor", help_doctor },
	{ "compare", help_compare }, { "version", help_version }, { "help", help_help },
};

bool help_command(const char *command)
{
	for (unsigned i = 0; i < ARRAY_SIZE(pages); i++) {
		if (strcmp(command, pages[i].command) == 0) {
			pages[i].print();
			return true;
		}
	}
	return false;
}

bool is_help_option(const char *arg)
{
	return strcmp(arg, "--help") == 0 || strcmp(arg, "-h") == 0;
}

int cmd_help(int argc, char **argv)
{
	if (argc < 2) {
		help_general();
		return STATUS_OK;
	}
	if (help_command(argv[1]))
		return STATUS_OK;
	fprintf(stderr, "cleave: there is no command '%s'; `cleave help` lists them\n", argv[1]);
	return STATUS_ERROR;
}
