/* The sandbox of a whole machine: what it still needs when it is complete. */
#include "base/err.h"
#include "base/log.h"
#include "dev/backend/net.h"
#include "machine/control.h"
#include "machine/gdb/gdb.h"
#include "machine/machine_internal.h"

#include <stdio.h>

static void collect(const struct machine *m, const struct control *c,
		    struct sandbox_threads_cfg *cfg)
{
	if (c)
		cfg->remove_in[cfg->n_remove_in++] = control_folder(c);
	if (m->vsock_folder >= 0)
		cfg->remove_in[cfg->n_remove_in++] = m->vsock_folder;
	if (m->gdb && gdb_folder(m->gdb) >= 0)
		cfg->remove_in[cfg->n_remove_in++] = gdb_folder(m->gdb);
	cfg->kvm = m->for_kvm;
	for (unsigned i = 0; i < m->cfg.n_nics; i++)
		if (m->cfg.nic[i].kind == NIC_USER && net_user_helper(m->net[i]) > 0)
			cfg->helper[cfg->n_helpers++] = net_user_helper(m->net[i]);
}

int machine_shut_in(struct machine *m, const struct control *c, struct err *err)
{
	struct sandbox_threads_cfg cfg = { 0 };
	int ret;

	if (!m->cfg.sandbox)
		return 0;
	collect(m, c, &cfg);
	ret = sandbox_enter_threads(&cfg, &m->sandbox, err);
	if (ret < 0)
		return err_wrap(err, "the sandbox (--sandbox off runs without)");
	log_say(LOG_INFO, "%u threads are shut in by seccomp, Landlock ABI %d (0: none)",
		m->sandbox.n_threads, m->sandbox.landlock_abi);
	return 0;
}
