/* What --net says. */
#ifndef CLI_NET_OPTION_H
#define CLI_NET_OPTION_H

struct err;
struct nic_config;

/* Parse user[,forward=...][,restrict][,mtu=N][,hostname=NAME][,mac=...] or tap=IF[,mac=...] into
 * *nic, which was all zero. nic->tap is a copy that the caller frees. Errors say what is wrong and
 * give an example.
 */
int parse_net(struct nic_config *nic, const char *text, struct err *err);
/* Parse [tcp:|udp:][ADDRESS:]PORT:GUESTPORT and add it to *nic. */
int parse_forward(struct nic_config *nic, const char *text, struct err *err);

#endif
