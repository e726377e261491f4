/** The copy of a draft that this device keeps, and the server's clock. */

/** Which window wrote a draft, by its stamp, "window:number". */
export const windowOf = (stamp) => (stamp ?? "").slice(0, (stamp ?? "").lastIndexOf(":"));

/** One value in this device's storage; where that is full or forbidden, nothing is kept. */
export class Kept {
  constructor(key) {
    this.key = key;
  }

  read() {
    try {
      return JSON.parse(localStorage.getItem(this.key));
    } catch {
      return null;
    }
  }

  write(value) {
    try {
      localStorage.setItem(this.key, JSON.stringify(value));
    } catch {
      /* the server still has it */
    }
  }

  /** The server has what `window` kept; another window's copy stays. */
  forget(window) {
    if (windowOf(this.read()?.draft?.stamp) !== window) return;
    try {
      localStorage.removeItem(this.key);
    } catch {
      /* nothing was kept */
    }
  }
}

/** Whether this device (or the `storage` given) remembers `name`; no where storage is forbidden. */
export function remembered(name, storage = () => localStorage) {
  try {
    return storage().getItem(name) !== null;
  } catch {
    return false;
  }
}

export function remember(name, on, storage = () => localStorage) {
  try {
    if (on) storage().setItem(name, "yes");
    else storage().removeItem(name);
  } catch {
    /* asked again next time */
  }
}

/** The server's time, which no change of this device's clock moves. */
export class ServerClock {
  constructor(now) {
    this.set(now);
  }

  set(now) {
    this.began = now - performance.now();
  }

  now() {
    return this.began + performance.now();
  }

  /** A moment of the server's as this device's clock shows it: "12:04". */
  shown(when) {
    const format = new Intl.DateTimeFormat(document.documentElement.lang, {
      hour: "2-digit",
      minute: "2-digit",
      hourCycle: "h23",
    });
    return format.format(new Date(when - this.now() + Date.now()));
  }
}
