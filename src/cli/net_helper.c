/* cleave net-helper: the process that a machine starts for user networking; nothing for people. */
#include "cli/cli.h"

#include "dev/backend/net.h"

int cmd_net_helper(int argc, char **argv)
{
	return net_helper_main();
}
