/* What a device is to the machine: something with a life. */
#ifndef DEV_DEV_H
#define DEV_DEV_H

/* The machine calls these with all vCPUs stopped, in this order of life:
 *	start -> (pause -> resume)* -> pause -> free
 * reset may come between pause and resume, or before start. NULL means nothing to do.
 */
struct dev_ops {
	const char *name;
	void (*start)(void *dev);
	void (*pause)(void *dev);
	void (*resume)(void *dev);
	void (*reset)(void *dev); /* power-on values, as after RESET# */
	void (*free)(void *dev);
};

struct dev {
	const struct dev_ops *ops;
	void *dev; /* owned by the machine once handed over */
};

#endif
