/** Enter takes the next task, wherever the focus rests on nothing. */

import { keysListen } from "./keys.js";

keysListen({
  bare: (key, event) => {
    const button = document.getElementById("next");
    if (key !== "Enter" || event.target !== document.body || !button) return false;
    button.click();
    return true;
  },
});
